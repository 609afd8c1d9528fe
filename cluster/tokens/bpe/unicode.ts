// Characters that JavaScript's tables of Unicode (17, in V8 13.6) sort otherwise than those of the library that engines
// tokenise with (`tokenizers` 0.23, whose Oniguruma has 16). To split a text as it is split there, others stand in for them.

/** New in Unicode 17: unassigned to the library, letters, marks or signs here. */
const NEW_IN_17 =
  '\\u088f\\u0c5c\\u0cdc\\u1acf-\\u1add\\u1ae0-\\u1aeb\\u20c1\\u2b96\\ua7ce-\\ua7cf\\ua7d2\\ua7d4\\ua7f1\\ufbc3-\\ufbd2\\ufd90-\\ufd91' +
  '\\ufdc8-\\ufdce\\u{10940}-\\u{10959}\\u{10ec5}-\\u{10ec7}\\u{10ed0}-\\u{10ed8}\\u{10efa}-\\u{10efb}\\u{11b60}-\\u{11b67}' +
  '\\u{11db0}-\\u{11ddb}\\u{11de0}-\\u{11de9}\\u{16ea0}-\\u{16eb8}\\u{16ebb}-\\u{16ed3}\\u{16ff2}-\\u{16ff6}\\u{187f8}-\\u{187ff}' +
  '\\u{18d09}-\\u{18d1e}\\u{18d80}-\\u{18df2}\\u{1ccfa}-\\u{1ccfc}\\u{1ceba}-\\u{1ced0}\\u{1cee0}-\\u{1cef0}\\u{1e6c0}-\\u{1e6de}' +
  '\\u{1e6e0}-\\u{1e6f5}\\u{1e6fe}-\\u{1e6ff}\\u{1f6d8}\\u{1f777}-\\u{1f77a}\\u{1f8d0}-\\u{1f8d8}\\u{1fa54}-\\u{1fa57}\\u{1fa8a}' +
  '\\u{1fa8e}\\u{1fac8}\\u{1facd}\\u{1faea}\\u{1faef}\\u{1fbfa}\\u{2b73a}-\\u{2b73f}\\u{2cea2}-\\u{2cead}\\u{323b0}-\\u{33479}'

/** No case to the one, lower case to the other. */
const RECASED = '\u0295'
const LOWER_CASE = '\u0250'
/** Unassigned in both, as long as what they stand in for. */
const UNASSIGNED = '\u0378'
const UNASSIGNED_ASTRAL = '\u{e0080}'

const UNLIKE = new RegExp(`[${NEW_IN_17}${RECASED}]`, 'u')
const UNLIKE_ALL = new RegExp(UNLIKE.source, 'gu')
/** Most texts end the search here. */
const BEYOND_LATIN = /[^\0-\u0294]/

/** The text with such characters in their place: as long, unit for unit, and cut at the same places. */
export function lookAlike(text: string): string {
  if (!BEYOND_LATIN.test(text) || !UNLIKE.test(text)) return text
  return text.replace(UNLIKE_ALL, likenessOf)
}

/** What is sorted by JavaScript's tables as this character is by the library's: mostly itself. */
export function likenessOf(char: string): string {
  if (!UNLIKE.test(char)) return char
  if (char === RECASED) return LOWER_CASE
  return char.length === 1 ? UNASSIGNED : UNASSIGNED_ASTRAL
}
