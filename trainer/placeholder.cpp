namespace fucina {}
