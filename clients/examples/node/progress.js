// Progress on standard error: one line that changes on a terminal, else a line every few seconds.

const EVERY_MS = process.stderr.isTTY ? 100 : 2000;

let shownAt = 0;
let isOpen = false;

/** Shows `text` unless it would be too often; one that `isLast` is always shown, and stays. */
export function show(text, isLast = false) {
  if (!isLast && Date.now() - shownAt < EVERY_MS) return;
  shownAt = Date.now();
  if (process.stderr.isTTY) {
    process.stderr.write(`\r\x1b[K${text}${isLast ? '\n' : ''}`);
    isOpen = !isLast;
  } else {
    process.stderr.write(`${text}\n`);
  }
}

/** Ends a line that still changes. */
export function close() {
  if (isOpen) process.stderr.write('\n');
  isOpen = false;
}

/** For `onProgress` of a transfer. */
export function transfer(verb) {
  return (done, total) => {
    const share = total ? `, ${Math.floor((100 * done) / total)} %` : '';
    show(`${verb} ${mebibytes(done)}${share}`, done === total);
  };
}

/** For `onProgress` of a watch. */
export function job({ state, progress }) {
  const rate = progress.rate_bytes_per_second ? `, ${mebibytes(progress.rate_bytes_per_second)}/s` : '';
  const name = state.replace('JOB_STATE_', '').toLowerCase();
  show(`${name}: ${progress.phase} ${progress.percent.toFixed(0)} %${rate}`, state === 'JOB_STATE_SUCCESS');
}

function mebibytes(bytes) {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
