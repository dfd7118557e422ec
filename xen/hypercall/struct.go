package hypercall

// The methods that make the argument structures a [Struct]. They are written out, and not behind an interface, so that structures
// on the stack stay there.

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnAllocUnbound) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnAllocUnbound) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnAllocUnbound) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnBindInterdomain) Size(abi ABI) int { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnBindInterdomain) Marshal(abi ABI, b []byte) {
	c := writer(abi, b)
	m.layout(&c)
	c.end()
}
func (m *EvtchnBindInterdomain) Unmarshal(abi ABI, b []byte) {
	c := reader(abi, b)
	m.layout(&c)
	c.end()
}

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnBindVIRQ) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnBindVIRQ) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnBindVIRQ) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnBindIPI) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnBindIPI) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnBindIPI) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnClose) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnClose) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnClose) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnSend) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnSend) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnSend) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnUnmask) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnUnmask) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnUnmask) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnReset) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnReset) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnReset) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnBindVCPU) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnBindVCPU) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnBindVCPU) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnStatus) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnStatus) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnStatus) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnInitControl) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnInitControl) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnInitControl) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnExpandArray) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnExpandArray) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnExpandArray) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *EvtchnSetPriority) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *EvtchnSetPriority) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *EvtchnSetPriority) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *GrantEntry) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *GrantEntry) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *GrantEntry) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *MapGrantRef) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *MapGrantRef) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *MapGrantRef) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *UnmapGrantRef) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *UnmapGrantRef) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *UnmapGrantRef) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *SetupGrantTable) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *SetupGrantTable) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *SetupGrantTable) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *GrantCopy) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *GrantCopy) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *GrantCopy) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *QueryGrantTableSize) Size(abi ABI) int          { c := measure(abi); m.layout(&c); return c.end() }
func (m *QueryGrantTableSize) Marshal(abi ABI, b []byte) { c := writer(abi, b); m.layout(&c); c.end() }
func (m *QueryGrantTableSize) Unmarshal(abi ABI, b []byte) {
	c := reader(abi, b)
	m.layout(&c)
	c.end()
}

// Size, Marshal and Unmarshal are as in [Struct].
func (m *GrantTableVersion) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *GrantTableVersion) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *GrantTableVersion) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *QueryGrantVersion) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *QueryGrantVersion) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *QueryGrantVersion) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *SwapGrantRefs) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *SwapGrantRefs) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *SwapGrantRefs) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *HVMParam) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *HVMParam) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *HVMParam) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *HVMTime) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *HVMTime) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *HVMTime) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *HVMUpcallVector) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *HVMUpcallVector) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *HVMUpcallVector) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *MemoryReservation) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *MemoryReservation) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *MemoryReservation) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *MemoryDomain) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *MemoryDomain) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *MemoryDomain) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *PhysmapAdd) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *PhysmapAdd) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *PhysmapAdd) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *PhysmapAddBatch) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *PhysmapAddBatch) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *PhysmapAddBatch) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *PhysmapRemove) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *PhysmapRemove) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *PhysmapRemove) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *MulticallEntry) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *MulticallEntry) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *MulticallEntry) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *SchedShutdown) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *SchedShutdown) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *SchedShutdown) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *SchedPoll) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *SchedPoll) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *SchedPoll) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *SchedRemoteShutdown) Size(abi ABI) int          { c := measure(abi); m.layout(&c); return c.end() }
func (m *SchedRemoteShutdown) Marshal(abi ABI, b []byte) { c := writer(abi, b); m.layout(&c); c.end() }
func (m *SchedRemoteShutdown) Unmarshal(abi ABI, b []byte) {
	c := reader(abi, b)
	m.layout(&c)
	c.end()
}

// Size, Marshal and Unmarshal are as in [Struct].
func (m *SchedWatchdog) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *SchedWatchdog) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *SchedWatchdog) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *VCPUTimeInfo) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *VCPUTimeInfo) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *VCPUTimeInfo) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *VCPURunstateInfo) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *VCPURunstateInfo) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *VCPURunstateInfo) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *VCPUSetPeriodicTimer) Size(abi ABI) int          { c := measure(abi); m.layout(&c); return c.end() }
func (m *VCPUSetPeriodicTimer) Marshal(abi ABI, b []byte) { c := writer(abi, b); m.layout(&c); c.end() }
func (m *VCPUSetPeriodicTimer) Unmarshal(abi ABI, b []byte) {
	c := reader(abi, b)
	m.layout(&c)
	c.end()
}

// Size, Marshal and Unmarshal are as in [Struct].
func (m *VCPUSetSingleshotTimer) Size(abi ABI) int { c := measure(abi); m.layout(&c); return c.end() }
func (m *VCPUSetSingleshotTimer) Marshal(abi ABI, b []byte) {
	c := writer(abi, b)
	m.layout(&c)
	c.end()
}
func (m *VCPUSetSingleshotTimer) Unmarshal(abi ABI, b []byte) {
	c := reader(abi, b)
	m.layout(&c)
	c.end()
}

// Size, Marshal and Unmarshal are as in [Struct].
func (m *VCPURegisterInfo) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *VCPURegisterInfo) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *VCPURegisterInfo) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *VCPUPhysID) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *VCPUPhysID) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *VCPUPhysID) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *FeatureInfo) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *FeatureInfo) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *FeatureInfo) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// Size, Marshal and Unmarshal are as in [Struct].
func (m *CompileInfo) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *CompileInfo) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *CompileInfo) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }
