/** A mistake of the user's: told as one line that names the thing and the fix, without a stack. */
export class UserError extends Error {}
