// For every CPU there is.
#include <c10/util/Half.h>

#define MMSNN_ARCH baseline
#include "cpu_kernels.h"
