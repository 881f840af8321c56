// An image as a file.

import { randomUUID } from 'node:crypto';
import { existsSync, rmSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { enumValue } from './contract.js';
import { Failure } from './errors.js';

/**
 * Writes an image to `path`, which appears when it is whole. `image`: an id, the first 4 or more characters of one, or
 * a name. `format`: raw, qcow2 ... Returns the image. Throws a Failure. `onProgress` gets the bytes so far and those of
 * the file, 0 when nobody knows yet.
 */
export async function downloadImage(imsd, image, path, { format = 'raw' } = {}, onProgress = () => {}) {
  const disk_format = `DISK_FORMAT_${format.toUpperCase()}`;
  if (!enumValue('DiskFormat', disk_format)) throw new Failure('USAGE', `there is no format ${format}`);
  if (existsSync(path)) throw new Failure('LOCAL_FILE', `${path} exists`, 'choose another name, or remove it');
  const found = await imsd.call(imsd.images, 'ResolveImage', { name_or_id: image });
  const part = `${path}.${randomUUID()}.part`;
  const forget = () => rmSync(part, { force: true });
  process.once('exit', forget); // interrupted
  try {
    await writeFile(imsd.answers(imsd.images, 'DownloadImage', { image_id: found.id, disk_format }), part, onProgress);
    await rename(part, path);
    return found;
  } finally {
    process.off('exit', forget);
    forget();
  }
}

async function writeFile(messages, path, onProgress) {
  const file = await open(path, 'wx');
  try {
    const size = await writeSteps(messages, file, onProgress);
    await file.truncate(size); // zeros at the end were not written either
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Writes what the messages say, leaves holes where they say zeros, and returns the size of the file. */
async function writeSteps(messages, file, onProgress) {
  let position = 0;
  let announced = 0;
  for await (const message of messages) {
    switch (message.step) {
      case 'header':
        announced = message.header.file_size_bytes;
        break;
      case 'data':
        await writeAll(file, message.data, position);
        position += message.data.length;
        break;
      case 'zero_length':
        position += message.zero_length;
        break;
      case 'complete':
        return checked(position, announced, message.complete.file_size_bytes);
    }
    onProgress(position, announced);
  }
  // The end of a stream means nothing: a daemon that died looks like one that has finished.
  throw new Failure('UNAVAILABLE', 'the download was cut off', 'start it again');
}

async function writeAll(file, data, position) {
  for (let done = 0; done < data.length; ) {
    const { bytesWritten } = await file.write(data, done, data.length - done, position + done);
    done += bytesWritten;
  }
}

function checked(received, announced, sent) {
  if (received === sent && (announced === 0 || announced === sent)) return received;
  throw new Failure('DATA_LOSS', `${received} bytes arrived of a file of ${sent}`, 'start it again');
}
