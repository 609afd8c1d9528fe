// A queue whose first element can be taken in constant time: an array's `shift` moves all the others.

/** How many taken places are kept before the array is cut. */
const TAKEN_MAX = 1024

/** Invariant: places before `#first` are taken, and hold nothing that would be kept alive. */
export class Fifo<T> {
  #items: (T | undefined)[] = []
  #first = 0

  get length(): number {
    return this.#items.length - this.#first
  }

  put(item: T): void {
    this.#items.push(item)
  }

  peek(): T | undefined {
    return this.#items[this.#first]
  }

  take(): T | undefined {
    if (this.length === 0) return undefined
    const item = this.#items[this.#first]
    this.#items[this.#first++] = undefined
    if (this.length === 0) this.clear()
    else if (this.#first > TAKEN_MAX && this.#first > this.length) {
      this.#items = this.#items.slice(this.#first)
      this.#first = 0
    }
    return item
  }

  clear(): void {
    this.#items = []
    this.#first = 0
  }
}
