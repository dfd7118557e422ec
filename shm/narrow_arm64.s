//go:build !race

#include "textflag.h"

// A store-release is sequentially consistent with the load-acquires and atomics that package sync/atomic uses.

// func storeSeqCst8(p unsafe.Pointer, v uint8)
TEXT ·storeSeqCst8(SB), NOSPLIT, $0-9
	MOVD  p+0(FP), R0
	MOVBU v+8(FP), R1
	STLRB R1, (R0)
	RET

// func storeSeqCst16(p unsafe.Pointer, v uint16)
TEXT ·storeSeqCst16(SB), NOSPLIT, $0-10
	MOVD  p+0(FP), R0
	MOVHU v+8(FP), R1
	STLRH R1, (R0)
	RET
