package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
)

// The checks in this file read a bbolt file without bbolt, which trusts every
// offset and page number it finds: a wrong one makes it panic, in part on
// goroutines of its own where nobody can catch it, or read outside the file.
// Only the frame is checked: pages, elements and keys, not the values.
//
// A file is a row of pages. The first two each hold a copy of the head ("meta"),
// the one with the higher transaction number counts. From its root page hangs
// the tree of buckets, and from the bucket entries the trees of the buckets.
const (
	pageHeader    = 16 // number 8, kind 2, count of elements 2, pages that follow 4
	elementSize   = 16
	bucketHeader  = 16 // root page 8, sequence 8
	metaSize      = 64
	metaMagic     = 0xED0CDAED
	metaVersion   = 2
	kindBranch    = 1
	kindLeaf      = 2
	elementBucket = 1
)

type meta struct {
	pageSize       int64
	root, end, txn uint64
}

func readMeta(f *os.File, at int64) (meta, bool) {
	b := make([]byte, pageHeader+metaSize)
	if _, err := f.ReadAt(b, at); err != nil {
		return meta{}, false
	}
	b = b[pageHeader:]
	le := binary.LittleEndian
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	m := meta{int64(le.Uint32(b[8:])), le.Uint64(b[16:]), le.Uint64(b[40:]), le.Uint64(b[48:])}
	return m, le.Uint32(b) == metaMagic && le.Uint32(b[4:]) == metaVersion &&
		le.Uint64(b[metaSize-8:]) == sum.Sum64() && m.pageSize >= 512 && m.pageSize <= 1<<20
}

// checkPages checks the frame of the file.
func checkPages(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	newest, ok := readMeta(f, 0)
	pageSize := newest.pageSize
	if !ok {
		pageSize = int64(os.Getpagesize())
	}
	if second, also := readMeta(f, pageSize); also && (!ok || second.txn > newest.txn) {
		newest, ok = second, true
	}
	if !ok {
		return fmt.Errorf("%w: no valid head", ErrDamaged)
	}
	if uint64(info.Size())/uint64(newest.pageSize) < newest.end {
		return fmt.Errorf("%w: %d bytes of %d pages are there", ErrDamaged, info.Size(), newest.end)
	}
	c := pageCheck{file: f, meta: newest, seen: make([]uint64, newest.end/64+1)}
	return c.page(newest.root, nil, nil)
}

type pageCheck struct {
	file *os.File
	meta
	seen []uint64 // one bit a page
}

// page is a page with those that follow it, of which only the first is in memory.
type page struct {
	*pageCheck
	at     int64
	size   int64
	first  []byte
	number uint64
}

func (p page) broken(what string) error {
	return fmt.Errorf("%w: page %d: %s", ErrDamaged, p.number, what)
}

// bytes reads n bytes from an offset within the page.
func (p page) bytes(offset, n int64) ([]byte, error) {
	if offset < 0 || n < 0 || offset+n > p.size {
		return nil, p.broken("an element lies outside")
	}
	if offset+n <= int64(len(p.first)) {
		return p.first[offset : offset+n], nil
	}
	b := make([]byte, n)
	if _, err := p.file.ReadAt(b, p.at+offset); err != nil {
		return nil, err
	}
	return b, nil
}

// page checks the tree below a page. Its keys must not be below low, and must be
// below high unless that is nil. No page may be reached twice, which also bounds
// the depth.
func (c *pageCheck) page(number uint64, low, high []byte) error {
	p := page{pageCheck: c, number: number, at: int64(number) * c.pageSize, size: c.pageSize}
	if number < 2 || number >= c.end {
		return p.broken("there is no such page")
	}
	p.first = make([]byte, c.pageSize)
	if _, err := c.file.ReadAt(p.first, p.at); err != nil {
		return err
	}
	more := uint64(binary.LittleEndian.Uint32(p.first[12:]))
	if number+more >= c.end {
		return p.broken("it is longer than the file")
	}
	for n := number; n <= number+more; n++ {
		if c.seen[n/64]&(1<<(n%64)) != 0 {
			return p.broken("it has two uses")
		}
		c.seen[n/64] |= 1 << (n % 64)
	}
	p.size += int64(more) * c.pageSize
	if binary.LittleEndian.Uint64(p.first) != number {
		return p.broken("it has another number")
	}
	return p.elements(low, high)
}

// elements checks what a page, or the page within a small bucket, contains.
func (p page) elements(low, high []byte) error {
	le := binary.LittleEndian
	head, err := p.bytes(0, pageHeader)
	if err != nil {
		return err
	}
	kind, count := le.Uint16(head[8:]), int64(le.Uint16(head[10:]))
	if kind != kindBranch && kind != kindLeaf {
		return p.broken("it is of another kind")
	}
	if kind == kindBranch && count == 0 {
		return p.broken("a branch without children")
	}
	type child struct {
		number uint64
		key    []byte
	}
	var children []child
	last := low
	for i := range count {
		at := pageHeader + i*elementSize
		e, err := p.bytes(at, elementSize)
		if err != nil {
			return err
		}
		offset, keySize := int64(le.Uint32(e)), int64(le.Uint32(e[4:]))
		if kind == kindLeaf {
			offset, keySize = int64(le.Uint32(e[4:])), int64(le.Uint32(e[8:]))
		}
		key, err := p.bytes(at+offset, keySize)
		if err != nil {
			return err
		}
		if order := bytes.Compare(last, key); order > 0 || order == 0 && i > 0 || high != nil && bytes.Compare(key, high) >= 0 {
			return p.broken("its keys are out of order")
		}
		last = key
		if kind == kindBranch {
			children = append(children, child{le.Uint64(e[8:]), key})
			continue
		}
		valueSize := int64(le.Uint32(e[12:]))
		if at+offset+keySize+valueSize > p.size {
			return p.broken("a value lies outside")
		}
		if le.Uint32(e)&elementBucket != 0 {
			if err := p.bucket(at+offset+keySize, valueSize); err != nil {
				return err
			}
		}
	}
	for i, sub := range children {
		until := high
		if i+1 < len(children) {
			until = children[i+1].key
		}
		if err := p.page(sub.number, sub.key, until); err != nil {
			return err
		}
	}
	return nil
}

// bucket checks the value of a bucket entry: the number of its root page or, for
// a small bucket, the page itself.
func (p page) bucket(at, size int64) error {
	b, err := p.bytes(at, size)
	if err != nil {
		return err
	}
	if len(b) < bucketHeader {
		return p.broken("a bucket without head")
	}
	if root := binary.LittleEndian.Uint64(b); root != 0 {
		return p.page(root, nil, nil)
	}
	inner := page{pageCheck: p.pageCheck, number: p.number, first: b[bucketHeader:], size: size - bucketHeader}
	if len(inner.first) >= pageHeader && binary.LittleEndian.Uint16(inner.first[8:]) != kindLeaf {
		return p.broken("a small bucket of another kind")
	}
	return inner.elements(nil, nil)
}
