"""What has changed between the images of training and new ones, and what can be mended: `petl.shift`, `petl.correct`."""
