// From a prompt to the token ids that the engine will see. The interface is what a tokenizer in this process has to
// offer to take the place of asking an engine; `engine-tokenizer.ts` implements it.

/** A prompt as far as a request's body tells it. */
export type Prompt =
  /** The caller sent token ids. */
  | { readonly kind: 'ids'; readonly ids: Uint32Array }
  /** To be tokenised: the members of the request that make the prompt, as JSON for vLLM's `POST /tokenize`. */
  | { readonly kind: 'text'; readonly body: Buffer }
  /** Nothing that can be tokenised ahead of the engine, in words. */
  | { readonly kind: 'unknown'; readonly because: string }

/** Token ids, or why there are none, in words for `why`. */
export type Tokens = { readonly ok: true; readonly ids: Uint32Array } | { readonly ok: false; readonly because: string }

/** Never rejects. `model` as the request names it. */
export type Tokenize = (model: string, prompt: Prompt) => Promise<Tokens>
