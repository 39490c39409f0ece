/* A shared library, but no plug-in. */
int stranger(void) { return 1; }
