// The program that serves a device; the library beside it is all there is to it.
int pf_device_main(int argc, char** argv);

int main(int argc, char** argv) { return pf_device_main(argc, argv); }
