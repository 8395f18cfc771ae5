"""Pre-training's subjects: text, word pieces, the corpus on the disk, masks, batches, records."""
