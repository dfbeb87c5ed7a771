"""What ships to the device: contracts, bundles, processing and one file per backend."""
