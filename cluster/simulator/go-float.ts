// How prometheus_client spells numbers.

/** A float as prometheus_client spells it: `10.0`, `1.5`, `1.048576e+06`. */
export function goFloat(value: number): string {
  if (value >= 1e6) {
    const [mantissa = '', exponent = ''] = value.toExponential().split('e+')
    return `${mantissa}e+${exponent.padStart(2, '0')}`
  }
  return Number.isInteger(value) ? `${value}.0` : String(value)
}
