package attachment

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"testing"

	"hearth/node/internal/vectortest"
)

type vectors[C any] struct {
	Vectors []C `json:"vectors"`
}

func TestVectors(t *testing.T) {
	type hex = vectortest.Hex
	var all struct {
		LegacyPaddingSizes vectors[struct {
			PlaintextSize int64 `json:"plaintext_size"`
			PaddedSize    int64 `json:"padded_size"`
		}] `json:"legacy_padding_sizes"`
		LegacyAESCBCHMAC vectors[struct {
			Name         string `json:"name"`
			Plaintext    hex    `json:"plaintext_hex"`
			Size         int64  `json:"size"`
			Padded       bool   `json:"padded"`
			PaddedSize   int64  `json:"padded_size"`
			Key          hex    `json:"key64_hex"`
			IV           hex    `json:"iv_hex"`
			Uploaded     hex    `json:"uploaded_hex"`
			UploadedSize int64  `json:"uploaded_size"`
			Digest       hex    `json:"digest_sha256_hex"`
		}] `json:"legacy_aes_cbc_hmac"`
		DisplayPictureAESGCM vectors[struct {
			Plaintext  hex `json:"plaintext_hex"`
			ProfileKey hex `json:"profile_key_hex"`
			IV         hex `json:"iv_hex"`
			Uploaded   hex `json:"uploaded_hex"`
		}] `json:"display_picture_aes_gcm"`
		DeterministicStreamSizes vectors[struct {
			PlaintextSize  int64 `json:"plaintext_size"`
			LeadingPadding int64 `json:"leading_padding"`
			EncryptedSize  int64 `json:"encrypted_size"`
		}] `json:"deterministic_stream_sizes"`
		DeterministicStream struct {
			Seed hex `json:"uploader_seed32_hex"`
			vectors[struct {
				DataSize        int64  `json:"data_size"`
				Domain          string `json:"domain"`
				Personalisation string `json:"personalisation"`
				Nonce           hex    `json:"nonce24_hex"`
				Key             hex    `json:"key32_hex"`
				LeadingPadding  int64  `json:"leading_padding"`
				EncryptedSize   int64  `json:"encrypted_size"`
				EncryptedSHA256 hex    `json:"encrypted_sha256_hex"`
				EncryptedBase64 string `json:"encrypted_base64"`
			}]
		} `json:"deterministic_stream"`
	}
	vectortest.Load(t, "attachments.json", &all)

	for _, c := range all.LegacyPaddingSizes.Vectors {
		if got := PaddedSize(c.PlaintextSize); got != c.PaddedSize {
			t.Errorf("%d bytes are padded to %d, want %d", c.PlaintextSize, got, c.PaddedSize)
		}
	}
	if len(all.LegacyPaddingSizes.Vectors) == 0 {
		t.Error("no padding sizes")
	}

	for _, c := range all.LegacyAESCBCHMAC.Vectors {
		t.Run(c.Name, func(t *testing.T) {
			var uploaded bytes.Buffer
			random := bytes.NewReader(append(bytes.Clone(c.Key), c.IV...))
			secret, err := Encrypt(random, &uploaded, bytes.NewReader(c.Plaintext), c.Size, c.Padded)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(uploaded.Bytes(), c.Uploaded) || !bytes.Equal(secret.Digest, c.Digest) || !bytes.Equal(secret.Key, c.Key) || secret.Size != c.Size {
				t.Error("another upload")
			}
			if n := UploadSize(c.Size, c.Padded); n != c.UploadedSize || c.Padded && PaddedSize(c.Size) != c.PaddedSize {
				t.Errorf("upload of %d bytes, want %d", n, c.UploadedSize)
			}
			var plain bytes.Buffer
			err = Decrypt(&plain, bytes.NewReader(c.Uploaded), int64(len(c.Uploaded)), Secret{Key(c.Key), c.Digest, c.Size}, false)
			if err != nil || !bytes.Equal(plain.Bytes(), c.Plaintext) {
				t.Errorf("decrypted to %x, %v", plain.Bytes(), err)
			}
		})
	}
	if len(all.LegacyAESCBCHMAC.Vectors) == 0 {
		t.Error("no classic files")
	}

	vectortest.Each(t, "display picture", all.DisplayPictureAESGCM.Vectors, func(t *testing.T, c struct {
		Plaintext  hex `json:"plaintext_hex"`
		ProfileKey hex `json:"profile_key_hex"`
		IV         hex `json:"iv_hex"`
		Uploaded   hex `json:"uploaded_hex"`
	}) {
		key, uploaded, err := EncryptPicture(bytes.NewReader(append(bytes.Clone(c.ProfileKey), c.IV...)), c.Plaintext)
		if err != nil || !bytes.Equal(uploaded, c.Uploaded) || !bytes.Equal(key, c.ProfileKey) {
			t.Errorf("encrypted to %x, %v", uploaded, err)
		}
		plain, err := DecryptPicture(Key(c.ProfileKey), c.Uploaded)
		if err != nil || !bytes.Equal(plain, c.Plaintext) {
			t.Errorf("decrypted to %x, %v", plain, err)
		}
	})

	for _, c := range all.DeterministicStreamSizes.Vectors {
		padding, encrypted := DeterministicPadding(c.PlaintextSize)
		if padding != c.LeadingPadding || encrypted != c.EncryptedSize {
			t.Errorf("%d bytes: padding %d in a stream of %d, want %d and %d", c.PlaintextSize, padding, encrypted, c.LeadingPadding, c.EncryptedSize)
		}
	}
	if len(all.DeterministicStreamSizes.Vectors) == 0 {
		t.Error("no sizes of streams")
	}

	stream := all.DeterministicStream
	for _, c := range stream.Vectors {
		data := make([]byte, c.DataSize)
		for i := range data {
			data[i] = byte(7 * i)
		}
		var uploaded bytes.Buffer
		secret, err := EncryptDeterministic(&uploaded, bytes.NewReader(data), c.DataSize, [32]byte(stream.Seed), Domain(c.Personalisation))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(uploaded.Bytes())
		if !bytes.Equal(sum[:], c.EncryptedSHA256) || !bytes.Equal(secret.Key, c.Key) || int64(uploaded.Len()) != c.EncryptedSize ||
			!bytes.Equal(uploaded.Bytes()[1:25], c.Nonce) {
			t.Errorf("%s of %d bytes: another stream", c.Domain, c.DataSize)
		}
		if c.EncryptedBase64 != "" && base64.StdEncoding.EncodeToString(uploaded.Bytes()) != c.EncryptedBase64 {
			t.Errorf("%s of %d bytes: another stream", c.Domain, c.DataSize)
		}
		var plain bytes.Buffer
		err = Decrypt(&plain, bytes.NewReader(uploaded.Bytes()), int64(uploaded.Len()), Secret{Key: Key(c.Key), Size: c.DataSize}, true)
		if err != nil || !bytes.Equal(plain.Bytes(), data) {
			t.Errorf("%s of %d bytes: decrypted to %d bytes, %v", c.Domain, c.DataSize, plain.Len(), err)
		}
	}
	if len(stream.Vectors) == 0 {
		t.Error("no streams")
	}
}
