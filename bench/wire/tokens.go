package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

// Before the numbers in identities and names of rooms; the stand-in finds them by these.
const (
	identityPrefix = "participant-"
	roomPrefix     = "room-"
	roomSize       = 10 // participants
)

// makeToken signs a LiveKit access token (a JWT with HS256) for the participant of this number,
// each with a signature of its own: a relay that keeps the ones it has verified gains nothing.
func makeToken(key string, secret []byte, number int) string {
	now := time.Now().Unix()
	claims := fmt.Sprintf(`{"iss":%q,"sub":"%s%08d","name":"Participant %d","nbf":%d,"exp":%d,`+
		`"video":{"roomJoin":true,"room":"%s%06d","canPublish":true,"canSubscribe":true,"canPublishData":true}}`,
		key, identityPrefix, number, number, now-5, now+3600, roomPrefix, number/roomSize)
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		base64.RawURLEncoding.EncodeToString([]byte(claims))
	signature := hmac.New(sha256.New, secret)
	signature.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(signature.Sum(nil))
}
