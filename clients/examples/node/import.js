// An image from a file: upload, commit, create. Through any number of broken connections.

import { randomUUID } from 'node:crypto';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { sendFile } from './upload.js';
import { patiently } from './patience.js';

/**
 * Sends `path` and returns the job that makes an image of it. Throws a Failure. `options`: `name`, and `sha256` of the
 * file or nothing. `onProgress` gets the bytes sent and those of the file.
 */
export async function importFile(imsd, path, options, onProgress = () => {}) {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    const upload = await createUpload(imsd, path, size, options.sha256);
    await sendFile(imsd, upload, file, size, onProgress);
    // The end of the stream said nothing: only this completes the upload.
    await patiently(() => imsd.call(imsd.uploads, 'CommitUpload', { upload_id: upload.id, size_bytes: size }));
    return await createImage(imsd, upload.id, options.name);
  } finally {
    await file.close();
  }
}

// A repeated request with the same request_id gets the first answer, so both calls are safe to repeat.

function createUpload(imsd, path, size, sha256 = '') {
  const request = {
    request_id: randomUUID(),
    size_bytes: size,
    file_name: basename(path),
    expected_sha256: sha256,
  };
  return patiently(() => imsd.call(imsd.uploads, 'CreateUpload', request));
}

function createImage(imsd, upload_id, name) {
  const request = { request_id: randomUUID(), upload_id, name };
  return patiently(() => imsd.call(imsd.images, 'CreateImage', request));
}
