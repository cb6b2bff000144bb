"""What an artifact's preprocessing.json asks for: a camera's image or a sensor's rows, posted as they are, become the
model's input. spec.py says what may be asked for, chain.py does it."""
