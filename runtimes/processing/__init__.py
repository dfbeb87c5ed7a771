"""The closed set of processing primitives a contract can name; numpy and OpenCV only."""
