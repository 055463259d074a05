# grants, missing table, leaks, fingerprints
import sys; from lib import *
psql('postgres','drop database if exists atk6'); psql('postgres','create database atk6')
db=PG+'atk6'
A=Server(7821,db)
P=7821
ann=token({"id":"ann","role":"user","tenantId":"t"}); annboss=token({"id":"ann","role":"boss","tenantId":"t"})
print('--- replay shows what caller may not read any more')
k='k-leak'
print(vis(req(P,'POST','/notes',{"who":"ann","note":"secret"},key=k,tok=annboss)))
print('now without boss:',vis(req(P,'POST','/notes',{"who":"ann","note":"secret"},key=k,tok=ann)))
print('unkeyed user   :',vis(req(P,'POST','/notes',{"who":"ann","note":"secret"},tok=ann)))
print('--- fingerprints')
def fp(label,a,b,path='/autos',ha=None,hb=None,method='POST'):
    k=str(uuid.uuid4())
    r1=req(P,method,path,raw=a,key=k,tok=ann,headers=ha or {'Content-Type':'application/json'}); r2=req(P,method,path,raw=b,key=k,tok=ann,headers=hb or ha or {'Content-Type':'application/json'})
    print(label,r1[0],r2[0],r2[1].get('idempotent-replayed'), r2[2][:90] if r2[0]>=400 else '')
fp('esc','{"text":"\\u0061"}','{"text":"a"}')
fp('dup','{"text":"a","text":"b"}','{"text":"a"}')
fp('dup2','{"text":"a"}','{"text":"a","text":"b"}')
fp('null/absent','{"text":"a","n":null}','{"text":"a"}')
fp('1.0','{"text":"a","n":1}','{"text":"a","n":1.0}')
fp('1e0','{"text":"a","n":1}','{"text":"a","n":1e0}')
fp('-0','{"text":"a","n":0}','{"text":"a","n":-0}')
fp('json -0','{"f":0,"j":[0]}','{"f":-0.0,"j":[-0]}','/papers')
fp('json 1e400','{"f":0,"j":[1e400]}','{"f":0,"j":[10e399]}','/papers')
fp('json 1e40000','{"f":0,"j":[1e40000]}','{"f":0,"j":[1e40001]}','/papers')
fp('float -0','{"f":0,"j":[0]}','{"f":-0,"j":[0]}','/papers')
t=time.time(); fp('huge exp','{"f":0,"j":[1e999999999999999999999]}','{"f":0,"j":1}','/papers'); print(time.time()-t)
fp('order','{"f":0,"j":{"a":1,"b":2}}','{"j":{"b":2,"a":1},"f":0.0}','/papers')
fp('ctype','{"text":"a"}','{"text":"a"}',ha={'Content-Type':'application/json'},hb={'Content-Type':'Application/JSON; charset=utf-8'})
fp('accept','{"text":"a"}','{"text":"a"}',ha={'Content-Type':'application/json'},hb={'Content-Type':'application/json','Accept':'application/cbor'})
fp('accept bad','{"text":"a"}','{"text":"a"}',ha={'Content-Type':'application/json'},hb={'Content-Type':'application/json','Accept':'text/plain'})
fp('prefer','{"text":"a"}','{"text":"a"}',ha={'Content-Type':'application/json','Prefer':'return=minimal'},hb={'Content-Type':'application/json'})
fp('surrogate','{"text":"\\ud83d\\ude00"}','{"text":"😀"}'.encode())
def path(label,m,p1,p2,body=None,ha=None,hb=None):
    k=str(uuid.uuid4()); r1=req(P,m,p1,body,key=k,tok=ann,headers=ha); r2=req(P,m,p2,body,key=k,tok=ann,headers=hb)
    print(label,r1[0],r2[0],r2[1].get('idempotent-replayed'),r2[2][:90] if r2[0]>=400 else '')
req(P,'POST','/plains',{"id":"a/b"},tok=ann);req(P,'POST','/plains',{"id":"ab"},tok=ann);req(P,'POST','/plains',{"id":"AB"},tok=ann)
path('%2F vs /','PATCH','/plains/a%2Fb','/plains/a/b',{"text":"1"})
path('%61','PATCH','/plains/ab','/plains/%61b',{"text":"1"})
path('case','PATCH','/plains/ab','/plains/AB',{"text":"2"})
path('slash','PATCH','/plains/ab','/plains/ab/',{"text":"3"})
path('query','PATCH','/plains/ab','/plains/ab?x=1',{"text":"4"})
path('emptyquery','PATCH','/plains/ab','/plains/ab?',{"text":"5"})
path('match','PATCH','/plains/ab','/plains/ab',{"text":"6"},hb={'If-Match':'*'})
req(P,'POST','/nameds',{"id":"n"},tok=ann)
path('match sp','PATCH','/nameds/n','/nameds/n',{"text":"6"},ha={'If-Match':'"1"'},hb={'If-Match':'  "1"  '})
path('match list','PATCH','/nameds/n','/nameds/n',{"text":"7"},ha={'If-Match':'"2","9"'},hb={'If-Match':'"9", "2"'})
path('DELETE ','DELETE','/plains/AB','/plains/AB')
path('del->patch','DELETE','/plains/ab','/plains/ab')
print('--- keys')
def key(label,m,p,body,*hs):
    s=socket.create_connection(('127.0.0.1',P)); b=json.dumps(body).encode() if body is not None else b''
    s.sendall(f'{m} /api{p} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(b)}\r\n'.encode()+b''.join(b'Idempotency-Key: '+h+b'\r\n' for h in hs)+b'\r\n'+b)
    d=b''
    while True:
        c=s.recv(65536)
        if not c:break
        d+=c
    print(label,d.split(b'\r\n')[0],d[-130:] if b' 4' in d[:13] or b' 5' in d[:13] else '')
B={"text":"x"}
for lab,h in (('empty',[b'']),('255',[b'k'*255]),('256',[b'k'*256]),('tab',[b'a\tb']),('lead tab',[b'\tab']),('two',[b'a',b'a']),('utf8',['ü'.encode()]),('quoted q',[b'"a\\"b"']),('pct',[b'%s$1\'{}~cratestack-key~']),('back',[b'"a\\\\b"']),('inj',[b"'||pg_sleep(1)||'"]),('int',[b'1']),('sp',[b'"  "']),('bin',[b':YWJj:'])):
    key(lab,'POST','/autos',B,*h)
key('get','GET','/autos',None,b'a b c',b'x')
key('none','POST','/nevers',{"id":"x"},b'k')
key('must','POST','/musts',{"id":"x"})
key('must bad','POST','/musts',{"id":"x"},b'a b')
def v7(ms,up=False,h=True):
    n=(ms<<80)|(7<<76)|(5<<64)|(2<<62)|7
    s=str(uuid.UUID(int=n)); 
    if not h: s=s.replace('-','')
    return (s.upper() if up else s).encode()
now=int(time.time()*1000)
for lab,ms in (('now',now),('+4:50',now+290000),('+5:10',now+310000),('-31d+1m',now-31*86400000+60000),('-31d-1m',now-31*86400000-60000),('0',0),('max',2**48-1)):
    key('v7 '+lab,'POST','/autos',B,v7(ms)); 
    if lab=='0':
        key('v7 upper','POST','/autos',B,v7(ms,True)); key('v7 nohyphen','POST','/autos',B,v7(ms,False,False)); key('v7 urn','POST','/autos',B,b'urn:uuid:'+v7(ms)); key('v7 braces','POST','/autos',B,b'{'+v7(ms)+b'}'); key('v7 upper nohy','POST','/autos',B,v7(ms,True,False))
print(psql('atk6',"select key from cratestack_idempotency where length(key)<60 order by created_at desc limit 25"))
print('--- big')
big='x'*(1<<20)
k='big'; r=req(P,'POST','/autos',{"text":big},key=k,tok=ann); print(r[0],len(r[2]),r[1].get('etag')); r=req(P,'POST','/autos',{"text":big},key=k,tok=ann); print(r[0],len(r[2]),r[1])
k='big5'; r=req(P,'POST','/autos',{"text":big*5},key=k,tok=ann); print(r[0],r[2][:100])
print('--- missing table')
psql('atk6','alter table cratestack_idempotency rename to x')
r=req(P,'POST','/autos',{"text":"a"},key='zz',tok=ann); print(r)
r=req(P,'POST','/autos/batch',{"items":[{"op":"create","data":{"text":"a"}}]},key='zz',tok=ann); print(r)
r=req(P,'POST','/autos',{"text":"a"},tok=ann); print(r[0])
psql('atk6','alter table x rename to cratestack_idempotency')
A.stop()
print(open('/tmp/atk/log-7821').read()[-3000:])
