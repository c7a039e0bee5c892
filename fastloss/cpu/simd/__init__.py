"""What the loops are made of: memory, half types, LLVM hints, polynomials, the work queue."""
