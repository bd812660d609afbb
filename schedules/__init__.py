"""What kernels compute (workloads) and how, per kind of processor."""
