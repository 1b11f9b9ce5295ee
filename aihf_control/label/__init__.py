"""People as annotators: a local web page that shows pairs of clips, and the storage of what they answer."""
