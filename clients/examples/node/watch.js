// A job, watched to its end.

import { Failure } from './errors.js';
import { Patience } from './patience.js';

const FINAL = new Set(['JOB_STATE_SUCCESS', 'JOB_STATE_FAIL', 'JOB_STATE_CANCELLED']);

/** Returns the job when it has succeeded; `onProgress` gets every state seen. Throws a Failure. */
export async function watchJob(imsd, job_id, onProgress = () => {}) {
  const patience = new Patience();
  for (;;) {
    let broken = new Failure('UNAVAILABLE', 'the daemon stopped reporting on the job');
    try {
      for await (const job of imsd.answers(imsd.jobs, 'WatchJob', { job_id })) {
        patience.refresh();
        onProgress(job);
        if (FINAL.has(job.state)) return succeeded(job);
      }
    } catch (error) {
      if (!error.isPassing || error.isFinal) throw error;
      broken = error;
    }
    await patience.wait(broken); // the job goes on meanwhile, also through a restart of the daemon
  }
}

function succeeded(job) {
  if (job.state === 'JOB_STATE_SUCCESS') return job;
  const { reason, message, hint } = job.error ?? { reason: 'CANCELLED', message: 'the job was cancelled' };
  const failure = new Failure(reason, message, hint);
  failure.isFinal = true; // the job has ended: watching again would not change it
  throw failure;
}
