"""Offline speech: voice activity, segmentation, speech-to-text and text-to-speech, loaded explicitly by name."""
