"""Photos: found, decoded once into a file on disk, sampled in batches, and augmented on the device."""
