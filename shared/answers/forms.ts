// The forms of answers, by dialect.
import type { CacheableDialect } from '../cache/key.ts'
import type { AnswerForm } from './answer-form.ts'
import { chatForm } from './chat.ts'
import { completionForm } from './completion.ts'
import { embeddingForm } from './embedding.ts'
import { messageForm } from './message.ts'
import { responseForm } from './response.ts'

export const ANSWER_FORMS: Readonly<Record<CacheableDialect, AnswerForm>> = {
  chat: chatForm,
  completions: completionForm,
  responses: responseForm,
  messages: messageForm,
  embeddings: embeddingForm,
}
