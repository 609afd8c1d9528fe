// Where the words of a text end, in order: the last one where the text does. Kept from text to text, so that cutting a long
// one leaves no garbage.

const ENDS_FIRST = 4 * 1024
/** Of a text that had more, the array is not kept. */
const ENDS_KEPT_MAX = 1024 * 1024

export class WordEnds {
  /** The first `count` count. */
  places = new Uint32Array(ENDS_FIRST)
  count = 0

  push(end: number): void {
    if (this.count === this.places.length) {
      const roomier = new Uint32Array(2 * this.count)
      roomier.set(this.places)
      this.places = roomier
    }
    this.places[this.count++] = end
  }

  clear(): void {
    this.count = 0
    if (this.places.length > ENDS_KEPT_MAX) this.places = new Uint32Array(ENDS_FIRST)
  }
}
