"""What a training loop needs beside the model."""
