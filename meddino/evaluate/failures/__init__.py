"""Where segmentations fail: by size and scan, by lesion, and whether the network knew."""
