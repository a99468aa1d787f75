"""What a device does with its data: frozen prefixes, batches, local training, evaluation."""
