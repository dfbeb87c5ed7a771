"""INT8: calibrate, smooth, decide what is worth quantizing, write it into the graph, keep it only where it pays."""
