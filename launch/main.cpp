#include <cstdio>

int main() { std::puts("fucina"); }
