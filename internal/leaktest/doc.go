// Package leaktest fails a package's tests if they leave goroutines or descriptors behind. Each package of tests has, in main_test.go,
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
package leaktest
