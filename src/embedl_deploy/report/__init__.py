"""What people and machines read of a result; `tables` needs rich, `summary` torch alone."""
