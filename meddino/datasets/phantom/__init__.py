"""The procedural CT phantom: a made-up patient, scanned and stored like a real dataset."""
