// Text that grows by the few characters of a token. Joined in blocks: kept one by one, pieces would take many times the
// memory of what they say.

const PIECES_PER_BLOCK = 64

export class GrowingText {
  /** What is told is `#text`, then the pieces: fewer than a block of them. */
  #text = ''
  #pieces: string[] = []

  add(piece: string): void {
    this.#pieces.push(piece)
    if (this.#pieces.length === PIECES_PER_BLOCK) this.#join()
  }

  /** All that was added. */
  text(): string {
    this.#join()
    return this.#text
  }

  #join(): void {
    this.#text += this.#pieces.join('')
    this.#pieces = []
  }
}
