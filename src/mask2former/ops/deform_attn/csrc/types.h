/* kernel.h for every element type, for the instruction set that the including file has set up. */

#define TYPE_SUFFIX f32
#define ELEMENT float
#define REAL float
#define REAL_IS_FLOAT 1
#define IS_BF16 0
#include "kernel.h"
#undef TYPE_SUFFIX
#undef ELEMENT
#undef REAL
#undef REAL_IS_FLOAT
#undef IS_BF16

#define TYPE_SUFFIX f64
#define ELEMENT double
#define REAL double
#define REAL_IS_FLOAT 0
#define IS_BF16 0
#include "kernel.h"
#undef TYPE_SUFFIX
#undef ELEMENT
#undef REAL
#undef REAL_IS_FLOAT
#undef IS_BF16

#define TYPE_SUFFIX bf16
#define ELEMENT uint16_t
#define REAL float
#define REAL_IS_FLOAT 1
#define IS_BF16 1
#include "kernel.h"
#undef TYPE_SUFFIX
#undef ELEMENT
#undef REAL
#undef REAL_IS_FLOAT
#undef IS_BF16
