"""Finding things in pictures: scenes, COCO folders, targets and losses, figures, the exported version."""
