//go:build !race

#include "textflag.h"

// XCHG with memory locks the bus by itself and orders everything before and after it.

// func storeSeqCst8(p unsafe.Pointer, v uint8)
TEXT ·storeSeqCst8(SB), NOSPLIT, $0-9
	MOVQ  p+0(FP), BX
	MOVB  v+8(FP), AX
	XCHGB AX, 0(BX)
	RET

// func storeSeqCst16(p unsafe.Pointer, v uint16)
TEXT ·storeSeqCst16(SB), NOSPLIT, $0-10
	MOVQ  p+0(FP), BX
	MOVW  v+8(FP), AX
	XCHGW AX, 0(BX)
	RET
