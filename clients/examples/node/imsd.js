// A connection to a daemon.

import { readFileSync } from 'node:fs';
import grpc from '@grpc/grpc-js';
import { definitions } from './contract.js';
import { Failure, failureOf } from './errors.js';

const OPTIONS = {
  // grpc-js waits up to two minutes between attempts to connect; a daemon restarts in a second.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
};

const UNARY_SECONDS = 120;

const IS_HERE = /^(unix:|127\.\d+\.\d+\.\d+:|localhost:|\[::1\]:)/;

export class Imsd {
  #metadata = new grpc.Metadata();

  /**
   * `address`: unix:PATH, HOST:PORT or tls://HOST:PORT. `token`: an API token; who may open the unix socket needs
   * none. `caFile`: the certificates that are trusted, else those that Node brings. `project`: empty for the only one
   * of a token, or the default one. Throws a Failure.
   */
  constructor(address, { token = '', caFile = '', project = '' } = {}) {
    if (token) this.#metadata.set('authorization', `Bearer ${token}`);
    const [target, credentials] = securityOf(address, token, caFile);
    const services = grpc.loadPackageDefinition(definitions).imsd.v1;
    const channel = new grpc.Channel(target, credentials, OPTIONS);
    const connect = (Service) => new Service(target, credentials, { channelOverride: channel });
    this.images = connect(services.ImageService);
    this.jobs = connect(services.JobService);
    this.uploads = connect(services.UploadService);
    this.project_id = project;
    this.close = () => channel.close();
  }

  /** The answer to one request. Throws a Failure. */
  call(service, method, request) {
    const message = { project_id: this.project_id, ...request };
    const deadline = Date.now() + UNARY_SECONDS * 1000;
    return new Promise((resolve, reject) => {
      service[method](message, this.#metadata, { deadline }, (error, answer) =>
        error ? reject(failureOf(error)) : resolve(answer),
      );
    });
  }

  /** The answers to one request, one after the other, as fast as they are taken. Throws a Failure. */
  async *answers(service, method, request) {
    const call = quiet(service[method]({ project_id: this.project_id, ...request }, this.#metadata));
    try {
      yield* call;
    } catch (error) {
      throw failureOf(error);
    } finally {
      call.cancel();
    }
  }

  /** A stream in both directions. */
  open(service, method) {
    return quiet(service[method](this.#metadata));
  }
}

/** What grpc-js takes for an address, and how it is to be spoken to. */
function securityOf(address, token, caFile) {
  if (address.startsWith('tls://')) {
    const trusted = caFile ? readFileSync(caFile) : null;
    return [address.slice('tls://'.length), grpc.credentials.createSsl(trusted)];
  }
  if (token && !IS_HERE.test(address)) {
    throw new Failure('USAGE', `a token is not sent to ${address} without TLS: use tls://${address}`);
  }
  return [address, grpc.credentials.createInsecure()];
}

/** Node ends a program at an 'error' event that nobody listens to, and a cancelled call has one when all is done. */
function quiet(call) {
  return call.on('error', () => {});
}
