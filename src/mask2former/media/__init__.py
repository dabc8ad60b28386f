"""Image and video files of any kind: found, opened, read whole, by parts or frame by frame. Knows no annotations."""
