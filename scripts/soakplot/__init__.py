"""Pictures of a soak's metrics as PNG, with nothing but the standard library."""
