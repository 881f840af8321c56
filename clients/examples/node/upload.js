// The bytes of an upload: in order, from the offset that the daemon has made durable.

import { once } from 'node:events';
import { Failure, failureOf } from './errors.js';
import { Patience } from './patience.js';

const STEP_BYTES = 1 << 20; // as much as one message may carry
const ENDING_MS = 5000;
const ZEROS = Buffer.alloc(STEP_BYTES);

/** Sends all of `file`, an open FileHandle of `size` bytes, until all of it is durable. Throws a Failure. */
export async function sendFile(imsd, upload, file, size, onProgress) {
  const patience = new Patience();
  let offset = upload.committed_offset;
  for (;;) {
    try {
      return await sendOnce(imsd, upload.id, file, { offset, size }, onProgress, patience);
    } catch (error) {
      if (!mayGoOn(error)) throw error;
      offset = await committedOffset(imsd, upload.id, error, patience);
    }
  }
}

/** Where the daemon wants the next byte from, after a break. */
async function committedOffset(imsd, upload_id, broken, patience) {
  for (;;) {
    await patience.wait(broken);
    try {
      return (await imsd.call(imsd.uploads, 'GetUpload', { upload_id })).committed_offset;
    } catch (error) {
      if (!error.isPassing) throw error;
      broken = error;
    }
  }
}

/** One stream: ends when all bytes are durable, or throws what broke it. */
async function sendOnce(imsd, upload_id, file, { offset, size }, onProgress, patience) {
  const call = imsd.open(imsd.uploads, 'WriteUpload');
  const ended = new AbortController();
  const durable = untilDurable(call, offset, size, patience).finally(() => ended.abort());
  durable.catch(() => {}); // it may fail while this side reads the file and nobody looks at it yet
  const write = (message) => writeTo(call, message, durable, ended.signal);
  try {
    await write({ header: { project_id: imsd.project_id, upload_id, offset } });
    while (offset < size) {
      // A buffer of its own for each message: grpc-js holds some back when the daemon is slower than the disk.
      const data = Buffer.allocUnsafe(Math.min(STEP_BYTES, size - offset));
      const { bytesRead } = await file.read(data, 0, data.length, offset);
      if (bytesRead === 0) throw new Failure('LOCAL_FILE', 'the file became shorter while it was sent');
      await write(stepOf(data.subarray(0, bytesRead)));
      offset += bytesRead;
      onProgress(offset, size);
    }
    await write({ flush: {} });
    await durable;
    await endOf(call);
  } finally {
    call.cancel();
  }
}

/** Ends a stream whose bytes are all durable: one that is cut off is to the daemon a call that failed. */
async function endOf(call) {
  call.resume();
  call.end();
  await once(call, 'status', { signal: AbortSignal.timeout(ENDING_MS) }).catch(() => {});
}

/** A run of zeros is sent as its length. */
function stepOf(data) {
  return data.equals(ZEROS.subarray(0, data.length)) ? { zero_length: data.length } : { data };
}

/** Back pressure: when grpc-js has enough in its buffer, wait until that is empty, or the stream has ended. */
async function writeTo(call, message, durable, ended) {
  if (!call.write(message)) await once(call, 'drain', { signal: ended }).catch(() => durable);
}

/** Reads the daemon's answers until they say that `size` bytes would survive a crash. */
async function untilDurable(call, offset, size, patience) {
  try {
    // The stream goes on after this loop: it is ended in peace, not destroyed.
    for await (const { committed_offset } of call.iterator({ destroyOnReturn: false })) {
      if (committed_offset > offset) patience.refresh();
      offset = committed_offset;
      if (offset === size) return;
    }
  } catch (error) {
    throw failureOf(error);
  }
  throw new Failure('UNAVAILABLE', 'the daemon closed the stream of the upload');
}

/** After UPLOAD_OFFSET_MISMATCH too: the broken stream may have made more durable after GetUpload. */
function mayGoOn(error) {
  return error.isPassing || error.reason === 'UPLOAD_OFFSET_MISMATCH';
}
