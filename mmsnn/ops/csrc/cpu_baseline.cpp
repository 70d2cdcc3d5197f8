// For every CPU there is.
#include <c10/util/Half.h>

#define MMSNN_ARCH baseline
#define MMSNN_WIDE 4
#include "cpu_kernels.h"
#include "event_kernels.h"
