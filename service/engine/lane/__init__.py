"""The threads that run batches on a device, and which model they serve next."""
