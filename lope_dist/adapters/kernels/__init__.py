"""The adapter's Triton kernels. Each has a PyTorch form, which is its reference and runs elsewhere.

What imports `triton` here is imported only where a kernel runs: CPU machines need not have it.
"""
