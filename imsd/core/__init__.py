"""The rules of the service: images, uploads, jobs, workflows. No gRPC, no SQL text, no driver."""
