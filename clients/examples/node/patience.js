// Going on after a break: a broken connection, a daemon that restarts.

import { setTimeout as sleep } from 'node:timers/promises';

const FIRST_MS = 100;
const LONGEST_MS = 3000;

export class Patience {
  #delay = FIRST_MS;
  #failingSince = undefined;

  /** Gives up after `seconds` in which nothing went forward. */
  constructor(seconds = 120) {
    this.seconds = seconds;
  }

  /** Something went forward. */
  refresh() {
    this.#delay = FIRST_MS;
    this.#failingSince = undefined;
  }

  /** Waits before the next attempt, longer every time; throws `error` when patience is over. */
  async wait(error) {
    this.#failingSince ??= Date.now();
    if (Date.now() - this.#failingSince > this.seconds * 1000) throw error;
    await sleep(this.#delay * (0.5 + Math.random() / 2)); // not all clients at the same instant
    this.#delay = Math.min(2 * this.#delay, LONGEST_MS);
  }
}

/** The answer of `call`, which is safe to repeat; made again while the daemon cannot be reached. */
export async function patiently(call) {
  const patience = new Patience();
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!error.isPassing) throw error;
      await patience.wait(error);
    }
  }
}
