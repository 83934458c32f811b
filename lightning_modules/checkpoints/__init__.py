"""What a checkpoint needs beside weights, so that a run goes on as if it had not been interrupted."""
