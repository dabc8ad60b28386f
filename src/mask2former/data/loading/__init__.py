"""From samples in worker processes to batches on a device: order, shared memory, padding."""
