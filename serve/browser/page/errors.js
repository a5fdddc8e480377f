/** An error that a person can fix: the message says what is wrong and what to do. */
export class LeapZooError extends Error {
  name = "LeapZooError";
}
