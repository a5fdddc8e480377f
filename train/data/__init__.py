"""Photos: where they are, decoded once into a file on disk, drawn in batches, augmented on the device."""
